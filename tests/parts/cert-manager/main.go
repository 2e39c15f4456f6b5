// cert-manager runs cert-manager's own controllers for the tests. Its real main lives in a Go module that no proxy
// serves, so this one builds the same controllers from the module that is served, with that main's defaults.
//
// Left out, because the tests have no use for them: the webhook, cainjector, leader election, and the controllers for
// ACME, Venafi, ingresses and Kubernetes' own certificate signing requests.
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	crca "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	crselfsigned "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	crvault "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/vault"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	"github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	"github.com/cert-manager/cert-manager/pkg/controller/issuers"

	// Each registers its kind of issuer.
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/vault"
)

// workers is how many goroutines each controller gets: the default of cert-manager's --concurrent-workers.
const workers = 5

// wanted names the controllers to run; each constant also pulls in the package that registers it.
var wanted = []string{
	issuers.ControllerName,
	clusterissuers.ControllerName,
	approver.ControllerName,
	crca.CRControllerName,
	crselfsigned.CRControllerName,
	crvault.CRControllerName,
	issuing.ControllerName,
	keymanager.ControllerName,
	readiness.ControllerName,
	requestmanager.ControllerName,
	revisionmanager.ControllerName,
	trigger.ControllerName,
}

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	kubeconfig := flag.String("kubeconfig", "", "cluster to work for")
	namespace := flag.String("cluster-resource-namespace", "cert-manager", "where a ClusterIssuer's Secret is looked for")
	leaderElect := flag.Bool("leader-elect", false, "for its name's sake: there is no leader election here")
	disableApprover := flag.Bool("disable-approver", false, "approve nothing, as where another approver is installed")
	// Used only where the API server has no priority and fairness: else cert-manager itself drops its limit.
	qps := flag.Float64("kube-api-qps", 20, "requests per second to the API server, where it has no priority and fairness")
	burst := flag.Int("kube-api-burst", 50, "burst of those requests")
	klog.InitFlags(nil)
	flag.Parse()
	if *leaderElect {
		log.Fatal("there is no leader election here: --leader-elect=false")
	}
	klog.EnableContextualLogging(true)

	if os.Getenv("EXIT_WITH_STDIN") == "1" {
		go exitWithStdin()
	}
	if *disableApprover {
		wanted = slices.DeleteFunc(wanted, func(name string) bool { return name == approver.ControllerName })
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, controller.ContextOptions{
		Kubeconfig:         *kubeconfig,
		KubernetesAPIQPS:   float32(*qps),
		KubernetesAPIBurst: *burst,
		IssuerOptions: controller.IssuerOptions{
			ClusterResourceNamespace:        *namespace,
			ClusterIssuerAmbientCredentials: true,
		},
		CertificateOptions: controller.CertificateOptions{
			CopiedAnnotationPrefixes:                 []string{"*", "-kubectl.kubernetes.io/", "-fluxcd.io/", "-argocd.argoproj.io/"},
			CertificateRequestMinimumBackoffDuration: time.Hour,
			CertificateRequestMaximumBackoffDuration: 32 * time.Hour,
		},
	}); err != nil {
		log.Fatal(err)
	}
}

// run runs the wanted controllers until ctx ends.
func run(ctx context.Context, opts controller.ContextOptions) error {
	factory, err := controller.NewContextFactory(ctx, opts)
	if err != nil {
		return err
	}
	shared, err := factory.Build()
	if err != nil {
		return err
	}
	built := map[string]controller.Interface{}
	for _, name := range wanted {
		if built[name], err = controller.Known()[name](factory); err != nil {
			return err
		}
	}
	// Started once every controller has asked for its informers.
	shared.SharedInformerFactory.Start(ctx.Done())
	shared.KubeSharedInformerFactory.Start(ctx.Done())

	group, ctx := errgroup.WithContext(ctx)
	for name, c := range built {
		group.Go(func() error {
			log.Print("running ", name)
			return c.Run(workers, ctx)
		})
	}
	group.Go(func() error {
		informer := shared.SharedInformerFactory.Certmanager().V1().CertificateRequests().Informer()
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			log.Print("ready")
		}
		return nil
	})
	return group.Wait()
}

// exitWithStdin ends this process when the other end of its standard input is closed. The test process holds that
// end, so however it dies, this one does not outlive it.
func exitWithStdin() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
